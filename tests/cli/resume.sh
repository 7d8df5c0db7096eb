#!/bin/sh
# N steps at once, or N/2 and --resume for the rest: the same losses to the last digit.
. "${0%/*}/lib.sh"
backends="reference $("$DS" backends | awk '$1 == "cpu" && $2 != "rejected" { print $1 }')"

for backend in $backends; do
  for bf16 in false true; do
    for family in gpt2 llama; do
      cat >config.json <<EOF
{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "gradient_clipping": 0.5,
 "bf16": {"enabled": $bf16}, "backend": {"name": "$backend", "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0.1}},
 "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 12, "warmup_num_steps": 3}}}
EOF
      case="$backend-$bf16-$family"
      ok train --model $family.json --config config.json --steps 12 --output "$case" --json
      sed 's/,"tokens_per_s.*//' .out >straight
      ok train --model $family.json --config config.json --steps 5 --output "$case-parts" --json
      sed 's/,"tokens_per_s.*//' .out >parts
      ok train --model $family.json --config config.json --steps 12 --output "$case-parts" --resume --json
      sed 's/,"tokens_per_s.*//' .out >>parts
      [ "$(wc -l <straight)" -eq 12 ] || fail "12 steps wanted"
      same straight parts
      for f in model.safetensors optimizer.safetensors; do
        same "$case/global_step12/$f" "$case-parts/global_step12/$f"
      done
    done
  done
done

# Over the end of an epoch too, which comes amid a batch.
export DS_BACKEND=reference
cat >config.json <<'EOF'
{"train_batch_size": 50, "optimizer": {"type": "Adam", "params": {"lr": 1e-3}}}
EOF
ok train --config config.json --steps 12 --output epochs --save-every 4 --json
sed 's/,"tokens_per_s.*//' .out >straight
for tag in global_step4 global_step8 global_step12; do
  [ -d epochs/$tag ] || fail "--save-every 4 should have made $tag"
done
printf global_step4 >epochs/latest
ok train --config config.json --steps 12 --output epochs --resume --json
sed 's/,"tokens_per_s.*//' .out >parts
sed -n '5,12p' straight >rest
same rest parts

# All done already: success, and nothing changes.
fingerprint epochs >before
run train --config config.json --steps 12 --output epochs --resume
[ "$code" -eq 0 ] || fail "nothing to do is no failure"
told '12 steps are done already'
fingerprint epochs >after
same before after

# What cannot be resumed is refused, and what was saved stays.
refused 'data set' train --config config.json --steps 13 --output epochs --resume --seq-len 8
sed 's/"n_embd": 32/"n_embd": 64/' gpt2.json >wide.json
refused 'shape|\[' train --model wide.json --config config.json --steps 13 --output epochs --resume
refused 'another model' train --model llama.json --config config.json --steps 13 \
  --output epochs --resume
refused 'latest' train --config config.json --steps 13 --output nothing --resume
wrong 'needs --output' train --config config.json --steps 13 --resume
fingerprint epochs >after
same before after

# out_of_tree.sh - what the tests of plugins built outside of this tree share, after lib.sh. The
# script's arguments after the usual three: the build folder, meson, then the C compiler and its
# flags. Installs dscore below root/; sets folder, where plugins go, and installed, its ds program.
build=$4 meson=$5
shift 5
command -v pkg-config >/dev/null || { skip 'there is no pkg-config'; exit 77; }

# What is installed, as it would be under another prefix.
run "$meson" install -C "$build" --no-rebuild --destdir "$WORK/root"
[ "$code" -eq 0 ] || fail 'meson install should succeed'
pc=$(find "$WORK/root" -name dscore.pc)
prefix=$WORK/root$(sed -n 's/^prefix=//p' "$pc")
sed -i "s|^prefix=.*|prefix=$prefix|" "$pc"
export PKG_CONFIG_PATH="${pc%/*}"
folder=$(pkg-config --variable=plugindir dscore)
case $folder in "$prefix"/*) ;; *) fail "plugindir should lie in the prefix: $folder" ;; esac
installed=$prefix/bin/ds
# A program that links the library: that looks beside itself, so it finds plugins without a path.
# shellcheck disable=SC2046
ok "$@" "$SOURCE/examples/embed.c" $(pkg-config --cflags --libs dscore) -o embed
LD_LIBRARY_PATH=$(pkg-config --variable=libdir dscore)
export LD_LIBRARY_PATH

# build_plugin NAME FOLDER: builds and installs the plugin whose sources are in FOLDER.
build_plugin() {
  name=$1 file=$folder/dscore_$1.so
  run "$meson" setup --werror "$2/build" "$2"
  [ "$code" -eq 0 ] || fail "$name should configure"
  run "$meson" compile -C "$2/build"
  [ "$code" -eq 0 ] || fail "$name should build"
  run "$meson" install -C "$2/build"
  [ "$code" -eq 0 ] && [ -f "$file" ] || fail "$name should be installed as $file"
}

# check_plugin: what was built last is a good plugin, is found, conforms and works.
check_plugin() {
  if command -v nm >/dev/null; then
    run nm -D --defined-only "$file"
    [ "$(wc -l <.out)" -eq 1 ] || fail "$name should export one symbol"
    printed ' T ds_plugin_query$'
  fi
  if command -v readelf >/dev/null; then
    run readelf -d "$file"
    printed 'NODELETE'
    ! grep -q 'libdscore' .out || fail "$name should not link core"
  fi
  DS_PLUGIN_PATH=$folder
  export DS_PLUGIN_PATH
  ok "$installed" backends --json
  json "any(b['name'] == '$name' and b['path'] == '$file' and b['device'] for b in value)"
  run "$installed" conform "$file" --cases 8
  [ "$code" -eq 0 ] || { grep -A 2 '^FAIL' .out; fail "$name should conform"; }
  printed '^PASS .*gemm'
  for model in gpt2 llama; do works "$name" "$model"; done
  unset DS_PLUGIN_PATH
  DS_BACKEND=$name
  export DS_BACKEND
  ok ./embed "out-gpt2-$name" 'The quick'
  printed '^The quick.'
  unset DS_BACKEND
}

# works NAME MODEL: a few steps and a few tokens; the loss is what the reference gives.
works() {
  sed "s/^{/{\"backend\": {\"name\": \"$1\", \"fallback\": \"${fallback:-allow}\"}, /" ds.json >"$1.json"
  out=out-$2-$1
  ok "$installed" train --model "$2.json" --data text.txt --config "$1.json" --seq-len 16 --steps 5 \
    --seed 3 --output "$out" --json
  field loss .out >"$2-$1.losses"
  if [ "$1" = reference ]; then
    [ "$(wc -l <"$2-$1.losses")" -eq 5 ] || fail 'five losses wanted'
  else
    paste "$2-reference.losses" "$2-$1.losses" >losses
    awk 'NF != 2 || ($1 - $2) ^ 2 > 1e-6 { bad = 1 } END { exit bad || NR != 5 }' losses ||
      { cat losses; fail "$1 should train $2 as the reference does"; }
  fi
  DS_BACKEND=$1
  export DS_BACKEND
  ok "$installed" generate --model "$out" --prompt 'The quick' --max-new-tokens 8
  unset DS_BACKEND
}
for model in gpt2 llama; do works reference "$model"; done

#!/bin/sh
# What `meson install` puts down is enough: the one cc line of examples/embed.c builds against it.
# Arguments after the usual three: the build folder, meson, then the C compiler and its flags.
. "${0%/*}/lib.sh"
build=$4 meson=$5
shift 5
export DS_BACKEND=reference

run "$meson" install -C "$build" --no-rebuild --destdir "$WORK/root"
[ $code -eq 0 ] || fail "meson install should succeed"
pc=$(find root -name dscore.pc)
[ "$(echo "$pc" | wc -l)" -eq 1 ] && [ "$pc" ] || fail "one dscore.pc wanted"
[ "$(find root -name ds.h -o -name ds_abi.h | wc -l)" -eq 2 ] || fail "ds.h and ds_abi.h wanted"
command -v pkg-config >/dev/null || { skip 'building against it: no pkg-config'; exit 77; }

# The file names the final places; the sysroot stands before them.
export PKG_CONFIG_PATH="$WORK/${pc%/*}" PKG_CONFIG_SYSROOT_DIR="$WORK/root"
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
# shellcheck disable=SC2046
ok "$@" "$SOURCE/examples/embed.c" $(pkg-config --cflags --libs dscore) -o embed
printf '#include <ds.h>\nint main(void) { return 0; }\n' >alone.c
# shellcheck disable=SC2046
ok "$@" -std=c11 -Wall -Wextra -Werror -pedantic alone.c $(pkg-config --cflags dscore) -o alone
if command -v c++ >/dev/null; then
  printf '#include <ds.h>\nint main() { return ds_version() == nullptr; }\n' >alone.cc
  # shellcheck disable=SC2046
  ok c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only alone.cc $(pkg-config --cflags dscore)
fi

library=$(find root -name 'libdscore.so.0')
ds=$(find root -name ds -type f)
export LD_LIBRARY_PATH="$WORK/${library%/*}"
ok "$ds" --version
[ "$(sed 's/^ds //' .out)" = "$(pkg-config --modversion dscore)" ] || fail "the versions should be the same"
ok "$ds" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 10 --output out
ok ./embed out 'The quick'
printed '^The quick.'

# The plugin lies where the installed library looks. (Others need a card.)
unset DS_BACKEND
plugin=$(find root -name 'dscore_cpu.so' -type f)
if [ "$plugin" ]; then
  name=cpu
  DS_BACKEND=$name ok ./embed out 'The quick'
  printed '^The quick.'
fi

# Also when the prefix was moved: `ds` finds what lies beside it.
if [ "$plugin" ]; then
  prefix=$(cd "${ds%/*}/.." && pwd)
  mv "$prefix" moved && mv moved "$prefix-moved"
  DS_BACKEND=$name ok "$prefix-moved/bin/ds" backends
  printed "^$name  *chosen "
  printed "^ *$prefix-moved/"
  mv "$prefix-moved" "$prefix"
fi

# The conformance suite needs nothing but the two, from an empty folder.
mkdir empty
cd empty || exit 1
if [ "$plugin" ]; then
  run "../$ds" conform "../$plugin" --section device
  [ "$code" -eq 0 ] || fail "ds conform should pass section device of the installed plugin"
  run "../$ds" conform "../$plugin" --section comm --ranks 2 --op world
  [ "$code" -le 1 ] || fail "ds conform should start its ranks by itself"
fi
ok "../$ds" conform reference --section gemm --cases 4
printed '^PASS  *gemm/gemm  *f32 '
[ -z "$(ls)" ] || fail "ds conform should leave nothing behind"

#!/bin/sh
# A plugin that is built outside of this tree, against what `meson install` put down: the template,
# and a copy of it by scripts/new-plugin. Each is installed, listed, conforms, trains and generates.
. "${0%/*}/lib.sh"
. "${0%/*}/out_of_tree.sh"

new=$SOURCE/scripts/new-plugin
"$new" >.out 2>.err && fail 'new-plugin without a name should fail'
for name in '' -x Acme 'a b' 'a/b' auto reference abcdefghijklmnopqrstuvwxyz123456; do
  run "$new" "$name" refused
  [ "$code" -eq 1 ] && [ ! -e refused ] || fail "new-plugin should refuse the name \"$name\""
  told 'scripts/new-plugin: '
done
ok "$new" my-card_2 'a copy'
printed "^  cd 'a copy' && meson setup build"
run "$new" other 'a copy'
[ "$code" -eq 1 ] || fail 'new-plugin should refuse a folder that exists'
told 'a copy exists already'

cp -r "$SOURCE/examples/plugin-template" template
build_plugin template template
check_plugin
build_plugin my-card_2 'a copy'
check_plugin

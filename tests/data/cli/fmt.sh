# A package, written once; the second time there is nothing to do.
mkdir -p shop/apps/inner && printf 'name = "inner"\nedition = "2026"\n' > shop/apps/inner/seg.toml
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nwithin = { path = "apps/inner" }\n' > shop/seg.toml
printf 'label   app\n' > shop/labels.seg && printf 'label   other\n' > shop/apps/inner/other.seg
printf 'policy   p {\r\n  isolate app:a   # why\r\n}' > shop/apps/p.seg
printf 'label role\n' > shop/apps/sound.seg
chmod 640 shop/apps/p.seg
1 segc fmt --check shop
0 cat shop/labels.seg
1 segc fmt --check --format json shop
0 segc fmt shop
0 segc fmt --check shop
0 cd shop && segc fmt
0 cat shop/apps/p.seg
0 stat -c %a shop/apps/p.seg
0 ls shop/apps
# A package inside a package is its own.
0 cat shop/apps/inner/other.seg
0 segc fmt shop/apps/inner shop/labels.seg

# Standard input.
0 printf 'label   app' | segc fmt -
0 printf 'label   app' | segc fmt - --format json
1 printf 'label   app' | segc fmt - --check
0 printf 'label app\n' | segc fmt - --check

# What does not parse is left alone, and told.
printf 'label   app\nlabel   1\nlabel   role\n' > broken.seg
1 segc fmt broken.seg
0 cat broken.seg
1 segc fmt broken.seg
1 segc fmt --check broken.seg

# A link stays one.
printf 'label   app\n' > target.seg; ln -s target.seg link.seg
0 segc fmt link.seg
0 test -L link.seg && cat target.seg

# Wrong use changes nothing.
printf 'label   app\n' > last.seg
2 segc fmt last.seg missing.seg
0 cat last.seg
mkdir plain
2 segc fmt plain
printf 'label   app # caf\351\n' > latin.seg
2 segc fmt latin.seg

# The examples are laid out.
0 segc fmt --check examples/starwars examples/shop examples/bastion

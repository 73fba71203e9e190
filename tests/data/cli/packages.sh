# Packages that build on others; see check.sh for the form.
mkdir -p org/guards org/lib shop/org-tools base
printf 'name = "base"\nedition = "2026"\n' > base/seg.toml
printf 'label env = { prod, dev }\n' > base/labels.seg
printf 'name = "org"\nedition = "2026"\n[dependencies]\nbase = { path = "../base" }\n[tiers]\nguard = ["guards/**"]\n[annotations]\nguard = ["owner"]\n' > org/seg.toml
printf 'import base.labels\n\n@owner("secops")\nguard separation {\n    deny env:* -> env:* unless same env\n}\n\nassert "prod is apart" {\n    expect deny env:dev -> env:prod\n}\n\ntest "not run elsewhere" {\n    expect allow env:dev -> env:prod\n}\n' > org/guards/env.seg
printf '## Nets.\nnet office = 198.51.100.0/24\nnet _lab = 192.0.2.0/24\n' > org/lib/nets.seg
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nguardrails = { path = "../org" }\nbase = { path = "../base" }\n' > shop/seg.toml
printf 'import base.labels\nimport guardrails.lib.nets.{ office }\n\npolicy shop {\n    allow office -> env:prod on tcp/443\n    allow env:* -> env:*\n}\n\ntest "office" {\n    expect allow 198.51.100.7 -> env:prod on tcp/443\n    expect deny env:dev -> env:prod by separation\n}\n' > shop/shop.seg
0 segc check shop
0 segc test shop
0 segc build shop -o shop.o
0 segc inspect shop.o | grep -c guards/env.seg
0 cd shop && segc check shop.seg

# What a dependency asserts holds in every build, or there is none.
printf 'import base.labels\n\nguard hole {\n    allow env:dev -> env:prod\n}\n' > shop/hole.seg
0 segc build shop -o shop.o
sed -i 's/@owner("secops")/@owner("secops") /; s/unless same env/unless { env:dev -> env:prod on tcp\/22; same env }/' org/guards/env.seg
1 segc build shop -o broken.o
0 test ! -e broken.o
1 segc test shop

# Who may write what.
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nguardrails = { path = "../org" }\nbase = { path = "../base" }\n[tiers]\nguard = []\n[annotations]\npolicy = ["owner", "ticket"]\n' > shop/seg.toml
1 segc check shop
rm shop/hole.seg
1 segc check shop
printf '@owner("b")\nguard g { deny any -> any on tcp/23 }\n' > org/lib/guard.seg
1 segc check org
rm org/lib/guard.seg

# Dates.
printf 'label app\npolicy p {\n    @expires(2026-12-31)\n    allow app:a -> app:b\n    allow app:a -> app:c\n}\ntest "t" { expect allow app:a -> app:b }\n' > dated.seg
0 segc test dated.seg
0 segc test dated.seg --as-of 2026-12-31
1 segc test dated.seg --as-of 2027-01-01
2 segc test dated.seg --as-of 2027-02-29
0 segc build dated.seg -o dated.o && segc inspect dated.o
mkdir dated && cp dated.seg dated/ && printf 'name = "dated"\nedition = "2026"\n[lints]\nW1302 = "deny"\nW1303 = "allow"\n' > dated/seg.toml
1 segc check dated --as-of 2026-12-30
0 segc check dated --as-of 2027-01-01

# Manifests that make no sense.
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nguardrails = { path = "../nowhere" }\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nstd = { path = "../org" }\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[dependencies]\nshop = { path = "../org" }\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[tiers]\nguards = ["org/**"]\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[annotations]\nguard = ["expires"]\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[lints]\nE0201 = "allow"\n' > shop/seg.toml
2 segc check shop
printf 'name = "shop"\nedition = "2026"\n[tiers]\nguard = ["a[b"]\n' > shop/seg.toml
2 segc check shop
printf 'name = "base"\nedition = "2026"\n[dependencies]\nshop = { path = "../org" }\n' > base/seg.toml
2 segc check org

# Nothing leaves a package unseen.
mkdir -p whole/org whole/target whole/.hidden
printf 'name = "whole"\nedition = "2026"\n' > whole/seg.toml
printf 'guard telnet { deny any -> any on tcp/23 }\n' > whole/org/guard.seg
printf 'policy open { allow any -> any }\n' > whole/target/open.seg
printf 'not a source' > whole/.hidden/notes.seg
0 segc check whole
2 segc check whole/.hidden/notes.seg
printf '' > whole/org/seg.toml
2 segc check whole
rm whole/org/seg.toml && mv whole/org/guard.seg whole/org/guard.SEG
2 segc check whole
rm whole/org/guard.SEG && mkfifo whole/org/pipe.seg
2 segc check whole
rm whole/org/pipe.seg
printf '@owner("") @owner("a") @owner("b") @owner("c")\npolicy blank { allow any -> any }\n' > whole/blank.seg
1 segc check whole
printf 'test "x\\n::error::y" { expect deny any -> any on tcp/1 }\n' > title.seg
0 segc test title.seg

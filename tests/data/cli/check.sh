# Each line: the exit code spec.md promises, then a command. Lines without a code set the scene. `examples` is a copy.
0 segc check examples/starwars
0 cd examples/starwars && segc check
0 segc check examples/starwars/deathstar.seg
0 segc check - < examples/starwars/deathstar.seg
0 segc check examples/shop/apps/shop.seg
0 cd examples/shop && segc check apps/shop.seg

# Findings: errors of the policy.
printf 'label app\npolicy p { allow app:a -> lost on tcp/80 }\n' > lost.seg
1 segc check lost.seg
1 segc check - < lost.seg
1 segc check --format json lost.seg
1 segc test lost.seg
1 segc build lost.seg -o lost.o
1 segc build lost.seg -o lost.o --format json
1 segc explain 10.0.0.1 10.0.0.2 tcp/80 lost.seg
1 segc dump policy lost.seg
1 segc dump bpf lost.seg
1 test -e lost.o
0 segc dump tokens lost.seg
0 segc dump ast lost.seg
printf '' > empty.seg
0 segc check empty.seg

# Wrong use: what cannot be read as a package.
2 segc check missing
2 segc check missing.seg
2 segc check ''
mkdir plain nothing loop broken edition unnamed more nameless
2 segc check plain
2 cd plain && segc check
printf 'name = "nothing"\nedition = "2026"\n' > nothing/seg.toml
2 segc check nothing
ln -s loop.seg loop/loop.seg
2 segc check loop/loop.seg
printf 'name = "loop"\nedition = "2026"\n' > loop/seg.toml
2 segc check loop
printf 'name = broken\n' > broken/seg.toml
2 segc check broken
printf 'name = "edition"\nedition = "1984"\n' > edition/seg.toml
2 segc check edition
printf 'name = "a b\\u001b[31m"\nedition = "2026"\n' > unnamed/seg.toml
2 segc check unnamed
printf 'edition = "2026"\n' > nameless/seg.toml
2 segc check nameless
printf 'name = "more"\nedition = "2026"\nmore = 1\n' > more/seg.toml
2 segc check more
printf 'label app\n# caf\351\n' > latin.seg
2 segc check latin.seg
2 segc check - < latin.seg
printf 'label app\n' > "$(printf 'red\033[31m.seg')"
2 segc check red*.seg
1 head -c 5000000 /dev/zero | tr '\0' '\n' > large.seg; segc check large.seg
1 segc check /dev/zero

# A policy that is right and too large is refused, and the rules that cost most are named.
for i in 0 1 2 3 4 5 6 7 8 9 10 11 12; do echo "label l$i = { x, y }"; done > large.seg
{ echo 'policy p {'; for i in 0 1 2 3 4 5 6 7 8 9 10 11 12; do echo "    deny l$i:x -> l$i:y on tcp/$i"; done; echo '}'; } >> large.seg
0 segc check large.seg
1 segc build large.seg -o large.o
0 test ! -e large.o

# A device is written to, and stays one.
0 segc build examples/starwars -o /dev/null | cut -d: -f1 && test -c /dev/null

# Every format of findings, of a package below the directory the command runs in.
mkdir -p shop/org 'shop/a b'
printf 'name = "shop"\nedition = "2026"\n' > shop/seg.toml
printf 'label app\nlabel env = { prod, dev }\n' > shop/org/labels.seg
printf 'import org.labels\nimport std.services.{ htps }\npolicy p {\n    allow env:pord -> env:dev on tcp/80\n    allow app:a -> app:b on 80/tcp\n    allow app:a &\n      app:ü & nobody -> any\n}\n' > 'shop/a b/p, %: q.seg'
1 segc check shop
1 segc check shop --format json
1 segc check shop --format sarif
1 segc check shop --format github
1 segc check shop --format junit
1 cd shop && segc check --format github
1 cd shop/org && segc check .. --format github
1 segc check - --format github < 'shop/a b/p, %: q.seg'
0 segc check - --format sarif < 'shop/a b/p, %: q.seg' > sarif; grep '"uri' sarif | sort -u

# Fingerprints stay when lines move, and differ for what is the same twice.
printf 'policy p {\n    allow lost -> any\n    deny any   -> any on 80/tcp\n    deny any -> any on 80/tcp\n}\n' > lost.seg
1 segc check lost.seg --format sarif > before
0 grep segFinding before
{ printf '# moved\n\n'; sed 's/lost ->/lost    ->/' lost.seg; } > moved && mv moved lost.seg
1 segc check lost.seg --format sarif > after
0 grep segFinding before > a; grep segFinding after | diff a -

# Claims that do not hold.
printf 'label app\npolicy p { allow app:a -> app:b on tcp/80 }\ntest "one <&> \\"two\\"" {\n    expect allow app:a -> app:b on tcp/80\n    expect deny app:a -> app:b\n}\ntest "nothing" { expect allow app:b -> app:a }\n' > false.seg
1 segc test false.seg
1 segc test false.seg --format sarif
1 segc test false.seg --format github
1 segc test false.seg --format junit

# A package that says nothing is a finding without a place.
printf 'label app\n' > idle.seg
1 segc test idle.seg
1 segc test idle.seg --format json
1 segc test idle.seg --format sarif
1 segc test idle.seg --format github
1 segc test idle.seg --format junit

# Nothing found.
0 segc check examples/starwars --format github
0 segc check examples/starwars --format junit
0 segc check examples/starwars --format sarif
0 segc test examples/starwars --format junit
0 segc test examples/starwars --format github
0 segc build examples/starwars -o deathstar.o --format github
0 segc build examples/starwars -o deathstar.o --format sarif > sarif; grep -c segc/build/starwars/ sarif
1 segc build lost.seg -o lost.o --format github

# What has no such format says so.
2 segc build examples/starwars -o deathstar.o --format junit
2 segc explain 10.0.0.1 10.0.0.2 tcp/80 examples/starwars --format sarif
2 segc dump tokens examples/starwars --format github
2 segc inspect deathstar.o --format junit
2 segc new other --format sarif
1 test -e other

# Wrong use, for programs.
2 segc check missing --format json
2 segc check missing --format github
2 segc check missing --format sarif
2 segc inspect missing.o --format json
2 segc explain nobody 10.0.0.2 tcp/80 examples/starwars --format json
2 segc frobnicate --format json
2 segc --format=json dump
2 segc dump tokens missing --format json
0 segc --help --format json > help && head -n 1 help

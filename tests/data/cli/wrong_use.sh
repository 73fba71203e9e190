2 segc
2 segc frobnicate
2 segc check --format xml
2 segc check one.seg two.seg
2 segc dump
2 segc dump object examples/starwars
2 segc dump --format yaml tokens examples/starwars
2 segc build examples/starwars -o missing/policy.bpf.o
mkdir folder
2 segc build examples/starwars -o folder
2 segc build examples/starwars -o .
2 segc build examples/starwars -o ''
0 ls -A folder
2 segc build examples/starwars -o
2 segc inspect
2 segc inspect missing.o
2 segc inspect folder

# A file that can be read and is no policy object is a finding.
1 segc inspect examples/starwars/deathstar.seg
1 segc inspect /dev/null
1 segc inspect /dev/zero
cp "$(command -v ls)" tool
1 segc inspect tool
0 segc build examples/starwars -o a.o > built
printf 'x' >> a.o
1 segc inspect a.o
1 segc inspect --format json a.o

# Help and version are no errors.
0 segc --version
0 segc --help > help && grep -c 'Exit codes: 0 clean, 1 findings, 2 wrong use, 4 internal error' help
0 segc help explain > help && grep -c Usage help

# Where the output goes changes no finding.
printf 'label app\npolicy p { allow app:a -> app:b on tcp/80 }\ntest "t" { expect deny app:a -> app:b on tcp/80 }\n' > false.seg
1 segc test false.seg
1 segc test false.seg --format json
1 segc test false.seg > false.out 2> false.err; code=$?; wc -l < false.out; exit $code
1 segc test false.seg >&- 2>&-
1 { segc test false.seg; echo $? > code; } 2> err | true; exit "$(cat code)"
0 { segc dump bpf examples/shop; echo $? > code; } | head -n 1 > first; exit "$(cat code)"
2 segc dump bpf examples/starwars > /dev/full
2 segc check false.seg > /dev/full 2> /dev/full

0 segc new demo
0 cat demo/seg.toml demo/*.seg
0 segc check demo
0 segc test demo
0 segc build demo -o demo.o > built && segc inspect demo.o > inspected && wc -l < built && grep workload inspected
0 cd demo && segc check && segc test && segc build > built && ls
0 segc explain web-1 db-1 tcp/5432 demo
0 segc explain dev-1 db-1 tcp/5432 demo
0 segc explain 203.0.113.7 web-1 udp/443 demo
0 segc dump policy demo > dumped
0 segc new --format json other
0 segc check other
0 cd other && segc check shop.seg && segc doc shop

# Nothing of the user's is overwritten.
2 segc new demo
2 segc new demo.o
2 segc new built/inside
mkdir empty
0 segc new empty
0 segc new "nested/1 Große Policy!" && cat nested/*/seg.toml && segc test nested/*
2 segc new

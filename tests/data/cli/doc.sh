# All modules: those of the package, if there is one here, and those of the library.
0 segc doc
0 cd examples/shop && segc doc
0 cd examples/shop && segc doc org.labels
0 segc doc org.guard.quarantine examples/shop
0 segc doc std.kubernetes
0 segc doc std.patterns | head -12
0 segc doc std.services.dns
0 segc doc --format json std.services.dns
0 segc doc --format json | grep -c docs

# A name alone is looked for in every module.
0 segc doc multicast
0 cd examples/shop && segc doc web

# What does not check is documented all the same; a template shows its parameters.
printf '## Reusable tiers.\n## Take one with `use`.\n\n# Tiers.\n\n## A front and a store.\n@owner("net")\ntemplate two-tier(app: endpoints, store: service = { tcp/5432, tcp/3306 }) {\n    allow app -> app on store\n}\n\n# Not a heading:\n# two lines.\n\n## Broken, and said so.\ngroup g = nowhere\npolicy p for { g, two } {\n}\n' > tiers.seg
0 segc doc tiers tiers.seg
0 segc doc two-tier tiers.seg
printf '## About the label.\nlabel app\n\n## Left alone.\n\nlabel role\n' > alone.seg
0 segc doc alone alone.seg

2 segc doc std.servces
2 segc doc std.services.dnss
2 segc doc htps
2 segc doc zzzzzz
2 segc doc std.nets nowhere

0 segc explain xwing-1 deathstar-1 tcp/80 examples/starwars
0 segc explain tiefighter-1 deathstar-1 tcp/80 examples/starwars
0 segc explain 10.30.0.2 10.30.0.1 tcp/80 examples/starwars
0 segc explain tiefighter-1@fd00:30::2 deathstar-1 tcp/80 examples/starwars
0 segc explain 'org:empire&class:tiefighter' 'org:empire & class:deathstar' tcp/80 examples/starwars
0 segc explain self 203.0.113.7 icmp/echo-request examples/starwars
0 segc explain 2001:db8::7 self proto/47 examples/starwars
0 segc explain --format json xwing-1 deathstar-1 tcp/80 examples/starwars
0 segc explain 10.0.0.1 10.0.0.2 https - < examples/starwars/deathstar.seg

# Ends and services that are none.
2 segc explain nobody deathstar-1 tcp/80 examples/starwars
2 segc explain xwing-1 nobody tcp/80 examples/starwars
2 segc explain org:rebels deathstar-1 tcp/80 examples/starwars
2 segc explain ship:xwing deathstar-1 tcp/80 examples/starwars
2 segc explain 'org:empire&org:alliance' deathstar-1 tcp/80 examples/starwars
2 segc explain 'org:empire&' deathstar-1 tcp/80 examples/starwars
2 segc explain 10.0.0.256 deathstar-1 tcp/80 examples/starwars
2 segc explain xwing-1@home deathstar-1 tcp/80 examples/starwars
2 segc explain 10.0.0.1 2001:db8::1 tcp/80 examples/starwars
2 segc explain xwing-1 deathstar-1 tcp/65536 examples/starwars
2 segc explain xwing-1 deathstar-1 tcp examples/starwars
2 segc explain xwing-1 deathstar-1 80/tcp examples/starwars
2 segc explain xwing-1 deathstar-1 icmp/shout examples/starwars
2 segc explain xwing-1 deathstar-1 '' examples/starwars
2 segc explain '' deathstar-1 tcp/80 examples/starwars
2 segc explain xwing-1 deathstar-1 tcp/80 missing
2 segc explain xwing-1 deathstar-1

# A service of the package by its name; a name with several means the first that runs over the ends' family.
0 segc explain tiefighter-1 deathstar-1 landing examples/starwars
0 segc explain fd09::1 fd09::2 ping examples/shop
2 segc explain 10.0.0.1 10.0.0.2 icmp6/echo-request examples/shop

# Source ports and codes stand in the flow where the policy asks for them.
0 printf 'policy p { allow any -> any on udp/68 & sport(67) }' > sources.seg
0 segc explain 10.9.9.9 10.0.0.1 'udp/68&sport(67)' sources.seg
0 segc explain 10.9.9.9 10.0.0.1 udp/68 sources.seg
0 segc explain 10.9.9.9 10.0.0.1 dhcp-client sources.seg
0 printf 'policy p { allow any -> any on { icmp/3/{ 3, 4 }, icmp6/packet-too-big } }' > codes.seg
0 segc explain 10.9.9.9 10.0.0.3 icmp/3/port-unreachable codes.seg
0 segc explain 10.9.9.9 10.0.0.3 icmp/3 codes.seg
0 segc explain 10.9.9.9 10.0.0.3 path-mtu codes.seg
0 segc explain fd00::9 fd00::3 path-mtu codes.seg
2 segc explain 10.9.9.9 10.0.0.1 'icmp/8&sport(67)' codes.seg
2 segc explain 10.9.9.9 10.0.0.1 tcp/22/4 codes.seg
2 segc explain 10.9.9.9 10.0.0.1 icmp/3/256 codes.seg

# A named port is the destination's.
0 printf 'label app\nworkload web at 10.0.0.1 is app:web on { admin = tcp/8443 }\nservice manage = tcp/admin\npolicy p { allow any -> app:* on manage }' > ports.seg
0 segc explain 10.9.9.9 web tcp/admin ports.seg
0 segc explain 10.9.9.9 web manage ports.seg
0 segc explain 10.9.9.9 10.0.0.1 tcp/80 ports.seg
2 segc explain 10.9.9.9 web udp/admin ports.seg
2 segc explain 10.9.9.9 10.0.0.2 manage ports.seg

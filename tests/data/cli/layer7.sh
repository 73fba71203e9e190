# Rules on requests, processes and names are proved, explained, and refused by `build`: no hook can tell.
{ echo 'label org'; echo 'service landing = tcp/80 & http(POST "/v1/request-landing")'; } > landing.seg
{ echo 'template quiet(who: endpoints) {'; echo '    deny who -> fqdn("*.tracker.example")'; echo '}'; } >> landing.seg
{ echo 'policy deathstar {'; echo '    allow org:empire -> org:empire on landing'; echo '    deny any -> any on tcp/23'; } >> landing.seg
{ echo '    allow self & cgroup("system.slice/apt.service") -> unmanaged on tcp/443'; echo '    use quiet(org:empire)'; } >> landing.seg
{ echo '    isolate { org:empire, self }'; echo '}'; echo 'test "landing" {'; } >> landing.seg
{ echo '    expect allow org:empire -> org:empire on landing'; echo '    expect deny any -> org:empire on tcp/80 & http(PUT)'; echo '}'; } >> landing.seg
0 segc check landing.seg
0 segc test landing.seg
0 segc test --format json landing.seg
1 segc build landing.seg -o landing.o
0 test ! -e landing.o
1 segc dump diagram landing.seg
1 segc dump bpf landing.seg
0 segc dump rules landing.seg
0 segc dump policy landing.seg

# The request stands in the flow, also where a service of the package asks for one.
0 segc explain org:empire org:empire 'tcp/80&http(POST /v1/request-landing)' landing.seg
0 segc explain org:empire org:empire landing landing.seg
0 segc explain org:empire org:empire 'tcp/80&http(PUT /v1/exhaust-port)' landing.seg
0 segc explain org:empire org:empire tcp/80 landing.seg
0 segc explain org:empire '192.0.2.1&fqdn(www.tracker.example)' tcp/443 landing.seg
0 segc explain 'self&cgroup(system.slice/apt.service/dpkg)' 192.0.2.1 tcp/443 landing.seg
0 segc explain 'self&cgroup(system.slice)' 192.0.2.1 tcp/443 landing.seg
0 segc explain --format json 'self&cgroup(system.slice)' '192.0.2.1&fqdn(a.example)' 'tcp/443&http(GET /)' landing.seg
2 segc explain 'org:empire&cgroup(a)' 192.0.2.1 tcp/443 landing.seg
2 segc explain 'self&host(a)' 192.0.2.1 tcp/443 landing.seg
2 segc explain self 192.0.2.1 'udp/443&http(GET /)' landing.seg

# A claim that fails shows the request, the process, the name.
{ echo 'test "wrong" {'; echo '    expect deny org:empire -> org:empire on tcp/80'; echo '    expect deny self -> unmanaged on tcp'; } > more.txt
{ echo '    expect allow org:empire -> fqdn("a.tracker.example")'; echo '}'; } >> more.txt
cat landing.seg more.txt > wrong.seg
1 segc test wrong.seg

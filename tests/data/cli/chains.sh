# A claim about chains that does not hold shows the connections, and the rule that allows each.
printf '%s\n' 'label app' 'policy shop {' '    allow unmanaged -> app:web on tcp/443' '    allow app:web & 2001:db8::/32 -> app:db on tcp/5432' '    allow app:db -> app:db' '}' 'workload web-1 at { 10.0.0.1, 2001:db8::1 } is app:web' > shop.seg
printf '%s\n' 'test "chains" {' '    expect deny unmanaged -> app:db' '    expect deny 203.0.113.7 ~> app:db on tcp/5432' '    expect deny 203.0.113.7 ~> app:db on tcp/22 avoiding web-1' '    expect deny unmanaged ~> app:db avoiding app:web' '    expect deny 10.0.0.1 & unmanaged ~> app:db avoiding app:web' '}' >> shop.seg
1 segc test shop.seg
1 segc test --format json shop.seg

# `check --fix` mends what is sure, in the files of the package and nowhere else.
mkdir -p shop/org
printf 'name = "shop"\nedition = "2026"\n' > shop/seg.toml
printf 'label role = { web, db }\nlabel tier == { one }\n' > shop/org/labels.seg
printf '# Kept.\nimport org.labels\npolicy p {\n    permit role:wbe -> role:db on 80/tcp   # kept, too\n    allow 10.0.0.1/8 -> lost\n}\n' > shop/p.seg
chmod 640 shop/p.seg && ln -s ../shop/p.seg shop/linked
1 segc check shop --fix
0 cat shop/p.seg shop/org/labels.seg
0 stat -c %a shop/p.seg
0 ls -A shop
1 segc check shop --fix
sed -i 's,10.0.0.1/8 -> lost,10.0.0.0/8 -> role:db,; s,==,=,; s,role:wbe,role:web,' shop/p.seg shop/org/labels.seg
0 segc check shop --fix

# For programs.
sed -i 's/allow role:web/accept role:web/' shop/p.seg
0 segc check shop --fix --format json
sed -i 's/allow role:web/accept role:web/' shop/p.seg
0 segc check shop --fix --format junit
0 segc check shop
1 printf 'policy p { permit lost -> any }\n' > lost.seg; segc check lost.seg --fix --format github

# A file that is named: it, and not what it imports.
printf 'label role = { web, db }\nnet lab = 10.0.0.9-10.0.0.1\n' > shop/org/labels.seg
sed -i 's/allow role:web/accept role:web/' shop/p.seg
1 segc check shop/p.seg --fix
0 cat shop/p.seg shop/org/labels.seg
ln -s shop/p.seg link.seg
sed -i 's/allow role:web/accept role:web/' shop/p.seg
1 segc check link.seg --fix
0 test -L link.seg && cat shop/p.seg

# Standard input: the text on standard output, all else on standard error.
0 printf 'policy p { permit any -> any on 80/tcp }\n' | segc check - --fix
0 printf 'policy p { permit any -> any on 80/tcp }\n' | segc check - --fix 2> said; cat said
1 printf 'policy p { permit any -> lost }\n' | segc check - --fix 2> /dev/null
0 printf 'policy p { allow any -> any }' | segc check - --fix 2> /dev/null | od -c | tail -n 3
2 printf '' | segc check - --fix --format json

# A file that cannot be written.
mkdir locked && cp shop/seg.toml locked && printf 'policy p { permit any -> any }\n' > locked/p.seg
2 ulimit -f 0; trap '' XFSZ; segc check locked --fix
0 cat locked/p.seg; ls -A locked
2 segc check missing --fix

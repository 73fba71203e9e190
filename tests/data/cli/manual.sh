# Pages for the manual: one on standard output, or all of them into a directory.
0 segc man pages/man1 | head -3
0 ls pages/man1
0 segc man | grep '^\.SH'
0 segc man --format json pages/again | grep -c '\.1"'
0 diff -r pages/man1 pages/again
touch file
2 segc man file

# Completions for the shells there are.
0 segc completions bash > segc.bash && bash -n segc.bash && grep -c '_segc()' segc.bash
0 for shell in zsh fish elvish powershell; do segc completions $shell | grep -c explain > found || echo none of $shell; done
0 segc completions bash --format json | head -2
2 segc completions csh

# The node's program has the same.
0 segd man pages/node && ls pages/node
0 segd man | grep '^\.SH'
0 segd completions bash > segd.bash && bash -n segd.bash && grep -c '_segd()' segd.bash
1 segd man file

# One page for each code, however it is spelled.
0 segc why E0207
0 segc why e207 | head -n 1
0 segc why 207 | head -n 1
0 segc why --format json E0103
0 segc why | head -n 3
0 segc why --format json | head -n 7
2 segc why E0209
2 segc why E7777
2 segc why tcp
2 segc why ''
2 segc why "$(printf '\033[31m')"
2 segc why E0207 E0208

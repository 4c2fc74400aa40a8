# Standard input arrives whole and ends.
#: stdin first line\nsecond line\nthird, with no end
read -r line; echo "read: $line"
cat
echo; echo "eof: $(cat | wc -c)"

# A real project built by make -j4 and gcc, and used.
#: timeout 900
#: run --memory 2G
cp -r /usr/src/lua /tmp/lua && cd /tmp/lua || exit
make -j4 linux MYCFLAGS=-O0 > log 2>&1; echo "make: $?"
ls src/*.o | wc -l; grep -c gcc log
cat > try.lua <<'END'
local words = {}
for word in ("the quick brown fox jumps over the lazy dog"):gmatch("%a+") do words[#words + 1] = word end
table.sort(words); print(table.concat(words, " "), _VERSION)
local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end end)
print(co(), co(), co(), pcall(error, "caught"))
local file <close> = assert(io.open("/tmp/lua/try.lua")); print(#file:read("a"))
print(io.popen("echo a child"):read("l"), os.execute("exit 3"))
print(string.format("%.10f", math.sin(1)), 7 // 2, 1 << 40, utf8.char(8364))
END
src/lua try.lua; src/luac -o try.out try.lua && src/lua try.out | md5sum
make install INSTALL_TOP=/tmp/installed > /dev/null && find /tmp/installed -type f | sort
touch src/lapi.c; make -j4 linux MYCFLAGS=-O0 2>&1 | grep -c 'gcc.*-c'

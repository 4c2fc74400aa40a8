# The whole tree: names, then the content of a large part of it.
#: timeout 300
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \) -prune -o -print | LC_ALL=C sort | md5sum
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \) -prune -o ! -type d -printf '%M %u:%g %s %y %p %l\n' | LC_ALL=C sort | md5sum
find /usr/bin /etc -xdev -type f | LC_ALL=C sort | xargs md5sum | md5sum
stat -c '%A %h %U %G %s %Y %n' /bin/sh /etc/passwd /usr/bin/perl

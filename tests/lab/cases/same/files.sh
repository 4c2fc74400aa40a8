# What coreutils can do to files: permissions, links, times, sparse files, truncation, long names, deep trees.
umask 022; mkdir /tmp/w; cd /tmp/w
echo a > f; chmod 640 f; chown 1000:100 f; stat -c '%a %u %g %s' f
ln f g; ln -s f s; ln -s /nowhere d; stat -c '%h %F' f s d; readlink -f s; cat d 2>&1
touch -d '2001-02-03 04:05:06 UTC' f; stat -c %Y f g; TZ=UTC ls -l --time-style=full-iso f | cut -d' ' -f1,3-
truncate -s 1M sparse; stat -c %s sparse; md5sum < sparse; dd if=/dev/zero of=sparse bs=1k count=1 seek=2000 2>/dev/null; stat -c %s sparse
mkdir -p a/b/c/d/e/f/g; cd a/b/c/d/e/f/g; pwd; cd - > /dev/null; rmdir -p a/b/c/d/e/f/g
long=$(printf '%0255d' 0); touch $long && ls | grep -c 000; touch ${long}x 2>&1 | cut -c 1-20,280-
mv f h; ls -1; rm g h; cp -a /etc/skel skel; ls -A skel; rm -r skel
ls -di / /.. | awk '{ print $1 }' | uniq | wc -l
cp /bin/ls ./myls; ./myls -d /etc; cmp /bin/ls myls && echo same
mkdir ro; chmod 555 ro; stat -c %A ro; mv ro rw; rmdir rw
echo data > x; exec 5<x; rm x; cat <&5; exec 5<&-
mkfifo p; stat -c %F p; test -p p && echo fifo
cd /etc; echo changed > motd; cat motd; rm motd; ls motd 2>&1; rm -r /usr/share/perl5/Debian* ; ls /usr/share/perl5 | head -n 3
echo new > /usr/bin/newtool; ls /usr/bin/newtool; mkdir /usr/lib/newdir; mv /usr/bin/newtool /usr/lib/newdir/; ls /usr/lib/newdir
mv /usr/share/perl5 /usr/share/moved 2>&1; ls -d /usr/share/perl5 /usr/share/moved 2>&1
seq 1 200000 > big; sort -R big | sort -n | cmp - big && echo sorted; split -l 50000 big part; ls part*; cat part* | cmp - big && echo joined
df /tmp > /dev/null && echo df; sync; echo done

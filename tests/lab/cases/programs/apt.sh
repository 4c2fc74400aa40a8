# apt-get: install from a repository in a directory, use, remove.
#: timeout 600
#: run --memory 2G
cp -r /srv/repository /tmp/repository && cd /tmp/repository || exit
for package in *.deb; do
    dpkg-deb -f $package
    echo "Filename: ./$package"
    echo "Size: $(stat -c %s $package)"
    echo "SHA256: $(sha256sum < $package | cut -d' ' -f1)"
    echo
done > Packages
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] copy:/tmp/repository ./' > /etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive
apt-get -q update 2>&1 | sed -E 's/^(Get|Hit|Err):[0-9]+/\1/' | grep -E '^(Get|Hit|Err|W|E)'; apt-cache policy jq | sed -n 1,3p
apt-get -qq -y install jq > log 2>&1; echo "install: $?"
grep -E '^(Unpacking|Setting up)' log
dpkg -s jq libjq1 | grep -E '^(Package|Status)'
echo '{"a": [1, 2, {"b": "c"}]}' | jq -c '.a | map(type)'
apt-get -qq -y remove jq > log 2>&1; echo "remove: $?"; ls /usr/bin/jq
dpkg --audit; dpkg -l jq | tail -1 | cut -c1-6

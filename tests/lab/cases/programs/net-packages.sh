# pip and apt from servers on the loopback: a package is built, served, installed in a virtual environment, and a Debian one.
#: timeout 900
#: run --memory 2G
mkdir -p /tmp/index/simple/thing /tmp/thing && cd /tmp/thing || exit
printf '%s\n' 'from setuptools import setup' 'setup(name="thing", version="1.2", py_modules=["thing"])' > setup.py
echo 'def say(): return "installed"' > thing.py
python3 setup.py -q bdist_wheel 2> /dev/null || python3 setup.py -q sdist 2> /dev/null
cp dist/* /tmp/index/simple/thing/
python3 -m http.server --bind 127.0.0.1 --directory /tmp/index 8080 > /tmp/log 2>&1 & server=$!
for try in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:8080/ && break; sleep 0.2; done
python3 -m venv /tmp/env
/tmp/env/bin/pip -q --disable-pip-version-check install --no-build-isolation --index-url http://127.0.0.1:8080/simple thing; echo "pip: $?"
/tmp/env/bin/python -c 'import thing; print(thing.say())'
/tmp/env/bin/pip -q --disable-pip-version-check --retries 0 install --index-url http://127.0.0.1:8080/simple other 2>&1 | grep -o 'No matching distribution'
cp -r /srv/repository /tmp/index/debian && cd /tmp/index/debian || exit
for package in *.deb; do
    dpkg-deb -f $package
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $package $(stat -c %s $package) $(sha256sum < $package | cut -d' ' -f1)
done > Packages
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] http://127.0.0.1:8080/debian ./' > /etc/apt/sources.list
export DEBIAN_FRONTEND=noninteractive
apt-get -q update 2>&1 | sed -E 's/^(Get|Hit|Err):[0-9]+/\1/' | grep -E '^(Get|Hit|Err|W|E)' | cut -d' ' -f1-3 | sort -u
apt-get -qq -y install jq > log 2>&1; echo "apt: $?"; echo '{"a": 1}' | jq -c .
kill $server; wait $server 2> /dev/null; echo "server: $?"

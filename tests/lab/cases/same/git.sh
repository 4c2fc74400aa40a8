# init, commit, branch, merge, clone, log, gc, fsck.
#: timeout 180
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
git config --global user.name Tester; git config --global user.email tester@example.org; git config --global init.defaultBranch main
mkdir /tmp/a; cd /tmp/a; git init -q
for i in 1 2 3 4 5; do seq $i $((i * 100)) > file$i; git add .; git commit -qm "commit $i"; done
git checkout -qb side HEAD~2; echo side > side; git add side; git commit -qm side
git checkout -q main; git merge -q -m merge side
git log --oneline --graph; git rev-parse HEAD
git gc -q; git fsck --strict 2>&1 | grep -v '^$'
git clone -q /tmp/a /tmp/b; cd /tmp/b; git log --format='%h %s' -n 3; git status --short --branch
git diff --stat HEAD~3; git grep -c '^77$'; git archive HEAD | tar -tf - | sort
git blame -s file2 | tail -n 1

# tmux: a server, sessions, panes of programs on terminals, keys sent, screens read, resizing, an attached client.
#: timeout 300
#: run --memory 2G
export TERM=xterm HOME=/tmp LANG=C.UTF-8
cd /tmp
tmux -f /dev/null new-session -d -s one -x 80 -y 24 'PS1="$ " exec sh'; echo "new: $?"
wait_for() { for try in $(seq 150); do tmux capture-pane -p -t "$1" | grep -q -- "$2" && return; sleep 0.2; done; echo "no $2 in $1"; tmux capture-pane -p -t "$1"; }
wait_for one '^[$]'
tmux send-keys -t one 'echo $((6 * 7)) "$TERM"; tty | cut -d/ -f1-3' Enter; wait_for one /dev/pts
tmux capture-pane -p -t one | grep -vE '^ *$' | head -4
tmux split-window -t one -h 'exec cat'; tmux send-keys -t one.1 'into cat' Enter; wait_for one.1 'into cat'
tmux list-panes -t one -F '#{pane_index} #{pane_width}x#{pane_height} #{pane_current_command}'
tmux resize-pane -t one.1 -x 20; tmux list-panes -t one -F '#{pane_width}'
tmux send-keys -t one.0 'stty size' Enter; wait_for one.0 '24 59'; echo resized
tmux send-keys -t one.1 C-d; for try in $(seq 100); do [ "$(tmux list-panes -t one | wc -l)" = 1 ] && break; sleep 0.2; done
tmux list-panes -t one | wc -l
tmux send-keys -t one 'sleep 1000' Enter; wait_for one 'sleep 1000'; sleep 1; tmux send-keys -t one C-c
tmux send-keys -t one 'echo code $?' Enter; wait_for one 'code 130'; echo interrupted
tmux new-window -t one 'exec python3 -q'; wait_for one:1 '>>>'; tmux send-keys -t one:1 'import os; os.get_terminal_size()' Enter
wait_for one:1 columns=80; echo python
tmux new-session -d -s two; tmux list-sessions -F '#{session_name} #{session_windows}'
script -qec 'tmux attach -t one' /dev/null < /dev/null > attached 2>&1 & sleep 3; tmux list-clients | wc -l
tmux detach-client -s one; wait; grep -c 'detached' attached
tmux set-buffer 'some text'; tmux show-buffer; echo
tmux run-shell 'echo from run-shell'
tmux kill-server; echo "end: $?"; sleep 1; ps -eo comm | grep '[t]mux' || echo gone

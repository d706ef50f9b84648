# Says what of the base set of tools is missing, or does not do what it does at home. The file
# "commands" lists them.
for command in $(cat commands); do
    command -v "$command" >/dev/null || test -x "/sbin/$command" || echo "no $command"
done

check() {
    [ "$2" = "$3" ] || echo "$1: '$2' instead of '$3'"
}

hexadecimal() {
    od -An -tx1 | tr -d ' \n'
}

check "time zone" "$(TZ=Asia/Tokyo date -d @0 +%H:%M)" 09:00
check terminal "$(TERM=xterm-256color tput colors)" 256
check clear "$(TERM=linux clear | head -c 1 | hexadecimal)" 1b
check service "$(getent services http | tr -s ' ')" "http 80/tcp www"
check protocol "$(getent protocols udp | tr -s ' ')" "udp 17 UDP"
check "media type" "$(grep -c '^image/webp' /etc/mime.types)" 1
check latin "$(printf 'caf\303\251' | iconv -f UTF-8 -t LATIN1 | hexadecimal)" 636166e9
check japanese "$(printf '\346\227\245' | iconv -f UTF-8 -t SJIS | hexadecimal)" 93fa
check chinese "$(printf '\346\227\245' | iconv -f UTF-8 -t GB18030 | hexadecimal)" c8d5
check perl "$(perl -Mstrict -MPOSIX=floor -MList::Util=sum -e 'print floor(sum(1, 2.5))')" 3
check pipe "$(printf '%s\n' b a | sort | sed -n 1p)" a
check processes "$(ps -e -o comm= | grep -x ps | wc -l)" 1
check archive "$(tar cf - commands | tar tf -)" commands
check compression "$(echo text | gzip | gunzip)" text
check substitution "$(bash -c 'diff <(echo a) <(echo a) && echo same')" same
check locale "$(locale charmap)" UTF-8
check interpreter "$(printf '#!/usr/bin/env bash\necho $0' >run; chmod +x run; ./run)" ./run
check loader "$(/sbin/ldconfig -p | grep -c 'libc\.so\.6 ')" 1
top -bn1 >/dev/null || echo "top fails"
echo checked

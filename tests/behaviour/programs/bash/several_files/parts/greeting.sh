text() {
    echo "greetings from several files of $1, $(cat main/word.txt)"
}

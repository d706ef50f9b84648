text() {
    echo "greetings from two files of $1"
}

pub fn text(name: &str, word: &str) -> String {
    format!("greetings from several files of {name}, {word}")
}

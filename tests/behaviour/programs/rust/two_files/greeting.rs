pub fn text(name: &str) -> String {
    format!("greetings from two files of {name}")
}

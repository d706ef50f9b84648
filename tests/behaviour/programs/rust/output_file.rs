fn main() -> std::io::Result<()> {
    std::fs::write("result.txt", "the result is 42\n")
}

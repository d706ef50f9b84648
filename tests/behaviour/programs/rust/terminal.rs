use std::io::Write;

#[repr(C)]
#[derive(Default)]
struct Size {
    rows: u16,
    columns: u16,
    width: u16,
    height: u16,
}

extern "C" {
    fn isatty(fd: i32) -> i32;
    fn ioctl(fd: i32, request: u64, size: *mut Size) -> i32;
}

const TIOCGWINSZ: u64 = 0x5413;

fn main() {
    // Rust keeps a prompt in its buffer in a terminal as well: it is up to the end of a line.
    print!("guess: ");
    std::io::stdout().flush().unwrap();
    let mut number = String::new();
    std::io::stdin().read_line(&mut number).unwrap();
    let mut size = Size::default();
    let all: String = (0..3).map(|fd| unsafe { isatty(fd) }.to_string()).collect();
    unsafe { ioctl(1, TIOCGWINSZ, &mut size) };
    println!("{} in {}x{}: {}", all, size.rows, size.columns, number.trim());
    std::process::abort();
}

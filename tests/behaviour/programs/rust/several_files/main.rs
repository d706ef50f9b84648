mod greeting;
mod parts;

fn main() {
    print!("{}", greeting::text("rust", parts::word::WORD));
}

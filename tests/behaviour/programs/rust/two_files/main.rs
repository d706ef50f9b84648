mod greeting;

fn main() {
    println!("{}", greeting::text("rust"));
}

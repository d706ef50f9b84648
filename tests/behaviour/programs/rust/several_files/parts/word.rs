pub const WORD: &str = include_str!("../main/word.txt");

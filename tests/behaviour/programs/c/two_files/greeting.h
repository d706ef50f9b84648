#define GREETING "greetings from two files of %s"

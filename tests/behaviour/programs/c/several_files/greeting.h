#define GREETING "greetings from several files of %s, %s"

const char *word(void);

#include "functions.c"

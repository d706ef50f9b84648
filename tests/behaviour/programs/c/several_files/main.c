#include <stdio.h>

#include "greeting.h"
/*
#include "parts/word.c"
*/

int main(void)
{
    printf(GREETING, language(), word());
    return 0;
}

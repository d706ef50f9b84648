#include <stdio.h>

#include "greeting.h"

int main(void)
{
    printf(GREETING "\n", "c");
    return 0;
}

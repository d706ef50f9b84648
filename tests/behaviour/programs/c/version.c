#include <stdio.h>

int main(void) {
    printf("gcc %s\n", __VERSION__);
}

"""An interpreter of a language of one file, small enough for any image: reverse Polish notation.

Numbers are pushed, ``+ - * /`` take two of them, ``read`` pushes a number from standard input,
``.`` prints the top, ``"text"`` prints the text, ``#`` begins a comment. A division by zero and
whatever else makes no sense end it with an error and exit status 1.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from support.host_programs import need_program

SUFFIX = ".rpn"
"""Of the language's files."""

_COMPILERS = {
    "musl": ("musl-gcc",),
    "static": ("musl-gcc", "-static"),
}
_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long stack[1000];
static int depth, line = 1;

static void fail(const char *what)
{
    fprintf(stderr, "line %d: %s\n", line, what);
    exit(1);
}

static long pop(void)
{
    if (depth == 0)
        fail("nothing on the stack");
    return stack[--depth];
}

static void push(long value)
{
    if (depth == 1000)
        fail("the stack is full");
    stack[depth++] = value;
}

static void word(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*end == 0) {
        push(value);
    } else if (strcmp(text, ".") == 0) {
        printf("%ld\n", pop());
    } else if (strcmp(text, "read") == 0) {
        if (scanf("%ld", &value) != 1)
            fail("no number in the input");
        push(value);
    } else if (text[1] == 0 && strchr("+-*/", text[0])) {
        long right = pop(), left = pop();
        if (text[0] == '/' && right == 0)
            fail("division by zero");
        push(text[0] == '+' ? left + right : text[0] == '-' ? left - right
             : text[0] == '*' ? left * right : left / right);
    } else {
        fail("unknown word");
    }
}

int main(int count, char **arguments)
{
    char text[100];
    int size = 0, c;
    FILE *file = count == 2 ? fopen(arguments[1], "r") : NULL;

    if (!file)
        fail("usage: rpn FILE");
    do {
        c = fgetc(file);
        if (c == '"') {
            while ((c = fgetc(file)) != '"' && c != EOF)
                putchar(c);
            putchar('\n');
        } else if (c == '#') {
            while ((c = fgetc(file)) != '\n' && c != EOF)
                ;
        }
        if (c != EOF && c != '"' && !strchr(" \t\r\n", c)) {
            if (size == sizeof text - 1)
                fail("a word is too long");
            text[size++] = c;
        } else if (size) {
            text[size] = 0;
            word(text);
            size = 0;
        }
        line += c == '\n';
    } while (c != EOF);
    return 0;
}
"""


def compile_interpreter(kind: str) -> bytes:
    """Return the program, for this machine: linked with ``musl``, or ``static``."""
    with tempfile.TemporaryDirectory() as directory:
        source, program = Path(directory, "rpn.c"), Path(directory, "rpn")
        source.write_text(_SOURCE)
        # Without a build id, which depends on the directory's name.
        options = ("-Os", "-s", "-Wl,--build-id=none", "-o", str(program), str(source))
        compiler, *kinds = _COMPILERS[kind]
        subprocess.run([need_program(compiler), *kinds, *options], check=True)
        return program.read_bytes()

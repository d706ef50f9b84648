static char text[100];

const char *buffer(char **end)
{
    *end = text + sizeof text;
    return text;
}

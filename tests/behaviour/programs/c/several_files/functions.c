// A part of the source that includes it: by itself it would be there twice.
const char *language(void)
{
    return "c";
}

const char *joint(void)
{
    return ", ";
}

seq -f "line %06.0f" 0 19999

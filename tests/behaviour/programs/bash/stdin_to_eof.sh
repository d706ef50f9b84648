read -r lines bytes < <(wc -lc)
echo "$bytes bytes, $lines lines"

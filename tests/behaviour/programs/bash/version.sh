echo "bash ${BASH_VERSION%%(*}"

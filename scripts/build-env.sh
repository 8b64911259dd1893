# Source this before cargo: it lets one compile of RocksDB's C++ serve every
# profile and every clean checkout, where a compiler cache is installed.
# Without one the build does the same work again and gives the same result.
if command -v ccache >/dev/null 2>&1; then
    export CC="ccache gcc" CXX="ccache g++"
fi

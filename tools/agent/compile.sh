#!/bin/sh
# Runs inside of the base that base.sh makes: compiles OpenSSL and Python into /opt/python.
set -eu
prefix=/opt/python

cd /build/openssl
# A folder that no system has: its openssl.cnf is written for another version. Certificates are found by the agent itself.
./config --prefix="$prefix" --libdir=lib --openssldir=/opt/backupsite-agent/ssl shared no-tests no-engine no-legacy
make -j "$JOBS" build_libs
make install_dev

cd /build/python
# The C library got others of five functions in 2.29, and sem_clockwait in 2.30. With those from before the program starts
# with 2.28 too (RHEL 8): the five give the same numbers, and the wait without a clock is what Python had until 3.10.
case $(uname -m) in
    x86_64) first=GLIBC_2.2.5 ;;
    aarch64) first=GLIBC_2.17 ;;
    *) first= ;;
esac
[ -z "$first" ] || for name in exp exp2 log log2 pow; do echo "__asm__(\".symver $name,$name@$first\");"; done > /build/older.h
touch /build/older.h
# Debian's fix of this module takes an internal header, and Debian links the module into the program.
sed -i '1i #define Py_BUILD_CORE_MODULE 1' Modules/pyexpat.c
./configure --prefix="$prefix" --enable-shared --with-openssl="$prefix" --without-ensurepip --disable-test-modules \
    ac_cv_func_sem_clockwait=no ac_cv_func_pthread_cond_clockwait=no \
    CFLAGS="-include /build/older.h" LDFLAGS="-Wl,-rpath,$prefix/lib"
make -j "$JOBS"
make install
"$prefix/bin/python3" -c 'import bz2, ctypes, lzma, math, plistlib, ssl, venv, zlib; print(ssl.OPENSSL_VERSION)'

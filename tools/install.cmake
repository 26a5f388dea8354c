# Run by cmake --install after the plain files: what depends on the place of installation or comes from the program itself.
#
#   LIBDIR/pkgconfig/gimbal.pc             with the prefix of this installation, which may differ from the configured one
#   man/man1/gimbal.1, shell completions   printed by the program just built; left out where it cannot print them
#
# Given by CMakeLists.txt: VERSION, BUILD, and LIBDIR, INCLUDEDIR, DATADIR, MANDIR relative to the prefix.
# file(INSTALL) honours DESTDIR and writes the manifest; files are made in BUILD/install first.
cmake_policy(SET CMP0011 NEW)
set(made "${BUILD}/install")
file(MAKE_DIRECTORY "${made}")

# "Cflags" of private requirements reach every user, so kissfft is named as a library: its .pc file would define
# kiss_fft_scalar in programs that may have a kissfft of their own. oneDNN 2 has no .pc file on Debian.
file(WRITE "${made}/gimbal.pc" "prefix=${CMAKE_INSTALL_PREFIX}
libdir=\${prefix}/${LIBDIR}
includedir=\${prefix}/${INCLUDEDIR}

Name: gimbal
Description: Temporally consistent video diffusion on CPUs
Version: ${VERSION}
Requires.private: jansson, libutf8proc, libcrypto
Cflags: -I\${includedir}
Libs: -L\${libdir} -lgimbal
Libs.private: -ldnnl -lkissfft-float -lgomp -lm
")
file(INSTALL "${made}/gimbal.pc" DESTINATION "${CMAKE_INSTALL_PREFIX}/${LIBDIR}/pkgconfig")

# Installs what `gimbal help FLAG` prints as FOLDER/NAME.
function(install_printed flag folder name)
    execute_process(COMMAND "${BUILD}/gimbal" help ${flag} OUTPUT_FILE "${made}/${name}" ERROR_QUIET RESULT_VARIABLE status)
    file(SIZE "${made}/${name}" size)
    if(status EQUAL 0 AND size GREATER 0)
        file(INSTALL "${made}/${name}" DESTINATION "${CMAKE_INSTALL_PREFIX}/${folder}")
    endif()
endfunction()
install_printed(--man ${MANDIR}/man1 gimbal.1)
install_printed(--bash ${DATADIR}/bash-completion/completions gimbal)
install_printed(--zsh ${DATADIR}/zsh/site-functions _gimbal)

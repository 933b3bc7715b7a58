# The driver of the guest "driver.bin", for what is passed through. Once a key is pressed, long
# after the start as in a real guest, each function of bus 0 with MSI-X is given addresses and all
# its vectors (up to 192), which go to the boot vCPU. Nothing that QEMU emulates for the lab's VMs
# has MSI-X. Another key does the same again and changes nothing.
#
# ds is flat; esi: configuration address of a function, ebp: of its capability.

        .set    WINDOW, 0xE0000000       # addresses for the functions, far above the RAM
        .set    FIRST_VECTOR, 0x40
        .set    MSIX, 0x11               # id of the capability

drive_all:
        call    point_vectors
        movl    $WINDOW, %edi
        movl    $0x80000000, %esi
1:      call    find_msix
        jc      2f
        call    place
        call    fill_table
        movl    %ebp, %eax               # MSI-X enable, without the mask for all vectors
        call    pci_read
        andl    $0x3FFFFFFF, %eax
        orl     $0x80000000, %eax
        movl    %eax, %ebx
        movl    %ebp, %eax
        call    pci_write
2:      addl    $0x800, %esi             # function 0 of the next device
        cmpl    $0x80010000, %esi
        jne     1b
        ret

point_vectors:
        movw    $FIRST_VECTOR * 4, %bx
1:      movw    $from_function, (%bx)
        movw    $0xF000, 2(%bx)
        addw    $4, %bx
        cmpw    $0x400, %bx
        jne     1b
        ret

from_function:                           # end of interrupt, for the local APIC
        addr32 movl $0, 0xFEE000B0
        iretw

find_msix:                               # sets ebp; carry: there is none
        leal    4(%esi), %eax
        call    pci_read
        cmpl    $-1, %eax                # no function
        je      2f
        testl   $0x100000, %eax          # no list of capabilities
        jz      2f
        leal    0x34(%esi), %eax
        call    pci_read
1:      testb   %al, %al
        jz      2f
        movzbl  %al, %ebp
        addl    %esi, %ebp
        movl    %ebp, %eax
        call    pci_read
        cmpb    $MSIX, %al
        je      3f                       # carry is clear
        movb    %ah, %al
        jmp     1b
2:      stc
3:      ret

place:                                   # edi: the next free address
        leal    0x10(%esi), %ecx
1:      movl    %ecx, %eax
        movl    $-1, %ebx
        call    pci_write
        movl    %ecx, %eax
        call    pci_read                 # ones where an address may be set: minus the size
        testl   %eax, %eax
        jz      2f
        testb   $1, %al                  # ports are not needed
        jnz     2f
        movl    %eax, %ebx
        andb    $0xF0, %bl
        decl    %edi
        subl    %ebx, %edi
        andl    %ebx, %edi
        pushl   %ebx
        pushl   %eax
        movl    %ecx, %eax
        movl    %edi, %ebx
        call    pci_write
        popl    %eax
        popl    %ebx
        subl    %ebx, %edi
        testb   $4, %al                  # of 64 bits
        jz      2f
        addl    $4, %ecx
        movl    %ecx, %eax
        xorl    %ebx, %ebx
        call    pci_write
2:      addl    $4, %ecx
        cmpb    $0x28, %cl
        jb      1b
        leal    4(%esi), %eax
        movl    $6, %ebx                 # memory and bus master
        jmp     pci_write

fill_table:
        leal    4(%ebp), %eax
        call    pci_read                 # offset, in the last three bits which address
        movl    %eax, %ebx
        andl    $7, %ebx
        andb    $0xF8, %al
        pushl   %eax
        leal    0x10(%esi,%ebx,4), %eax
        call    pci_read
        andb    $0xF0, %al
        popl    %ebx
        addl    %eax, %ebx
        movl    %ebp, %eax
        call    pci_read
        shrl    $16, %eax
        andl    $0x7FF, %eax             # the last vector
        movl    %eax, %ecx
        movl    $FIRST_VECTOR, %eax
1:      movl    $0xFEE00000, (%ebx)
        movl    $0, 4(%ebx)
        movl    %eax, 8(%ebx)
        movl    $0, 12(%ebx)             # not masked
        addl    $16, %ebx
        incl    %eax
        decl    %ecx
        jns     1b
        ret

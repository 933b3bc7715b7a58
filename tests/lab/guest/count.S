# What the guest "count.bin" does: it counts, as long as it has its CPU. A byte on its serial port asks for a
# line: how far it has come, and the time in ns that was taken from it as KVM tells it (steal), both in
# hexadecimal. The time is 0 without KVM.
#
# ds is flat.

        .set    COUNTED, 0x1000
        .set    STEAL, 0x1040            # struct kvm_steal_time: 64 bytes, and its address is a multiple of 64
        .set    MSR_KVM_STEAL_TIME, 0x4B564D03
        .set    PORT, 0x3F8
        .set    PORT_STATUS, PORT + 5
        .set    ROUND, 1000000

have_steal_told:
        movl    $MSR_KVM_STEAL_TIME, %ecx
        movl    $(STEAL | 1), %eax
        xorl    %edx, %edx
        wrmsr
        ret

count:
        movl    $ROUND, %ecx
1:      addl    $1, COUNTED
        adcl    $0, COUNTED + 4
        decl    %ecx
        jnz     1b
        movw    $PORT_STATUS, %dx
        inb     %dx, %al
        testb   $1, %al                  # a byte is there
        jz      2f
        movw    $PORT, %dx
        inb     %dx, %al
        movw    $COUNTED + 7, %si
        movb    $' ', %bl
        call    print
        movw    $STEAL + 7, %si
        movb    $'\n', %bl
        call    print
2:      ret

print:                                   # the 8 bytes that end at si, the last one first, then bl
        movw    $8, %cx
1:      movb    (%si), %al
        shrb    $4, %al
        call    digit
        movb    (%si), %al
        andb    $15, %al
        call    digit
        decw    %si
        loop    1b
        movb    %bl, %al
        outb    %al, %dx
        ret

digit:
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     1f
        addb    $('A' - '9' - 1), %al
1:      outb    %al, %dx
        ret

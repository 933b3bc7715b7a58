# A guest in one file: the "firmware" of the lab's VMs, 64 KiB, loaded with -bios.
#
# It starts in the time that QEMU needs, as no SeaBIOS runs before it. One of these is defined:
# IDLE: all vCPUs are halted. SPIN: all vCPUs burn their CPU (the boot vCPU wakes the others by INIT
# and SIPI). DRIVER: halted; a key loads a driver for what is passed through (driver.S). COUNT: the
# boot vCPU counts, and says on demand how far it has come (count.S).
# All obey the ACPI power button, as an operating system does: QMP system_powerdown or
# PVE's shutdown end in a power-off by the guest itself. Machine type "pc" (PIIX4).

        .code16
        .set    PM, 0x600                # where the power management registers are put
        .set    PM1_STS, PM
        .set    PM1_EN, PM + 2
        .set    PM1_CNT, PM + 4
        .set    POWER_BUTTON, 0x100
        .set    SOFT_OFF, 0x2000         # SLP_EN with sleep type 0

        .org    0                        # 0xF000:0, where the SIPI vector 0xF0 sends the others
ap:     cli
1:      jmp     1b

start:  cli
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    %ax, %ds
        movw    $0x7000, %sp

        # PIIX4 function 3 (device 1): power management base, then enable it.
        movl    $0x80000B40, %eax
        movl    $(PM | 1), %ebx
        call    pci_write
        movl    $0x80000B80, %eax
        movl    $1, %ebx
        call    pci_write
        movw    $PM1_EN, %dx
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx

        call    flat_data
        .ifdef SPIN
        call    wake_others
        .else
        .ifdef COUNT
        call    have_steal_told
        .else
        movl    $0x700, %ds:0x350(%edi)  # LINT0: interrupts of the PIC
        call    enable_sci
        .endif
        .endif

wait:
        .ifdef DRIVER
        inb     $0x64, %al
        testb   $1, %al                  # a key, perhaps from before its interrupt was on
        jz      1f
        inb     $0x60, %al
        call    drive_all
1:
        .endif
        .ifdef SPIN
        movl    $2000000, %ecx
1:      decl    %ecx
        jnz     1b
        .else
        .ifdef COUNT
        call    count
        .else
        sti
        hlt
        cli
        .endif
        .endif
        movw    $PM1_STS, %dx
        inw     %dx, %ax
        testw   $POWER_BUTTON, %ax
        jz      wait
        movw    $PM1_CNT, %dx
        movw    $SOFT_OFF, %ax
        outw    %ax, %dx
2:      hlt
        jmp     2b

pci_write:                               # eax: address, ebx: value
        movw    $0xCF8, %dx
        outl    %eax, %dx
        movw    $0xCFC, %dx
        movl    %ebx, %eax
        outl    %eax, %dx
        ret

        .ifdef DRIVER
pci_read:                                # eax: address, then what is there
        movw    $0xCF8, %dx
        outl    %eax, %dx
        movw    $0xCFC, %dx
        inl     %dx, %eax
        ret

        .include "driver.S"
        .endif
        .ifdef COUNT
        .include "count.S"
        .endif

enable_sci:                              # the power button's interrupt is line 9, vector 0x29
        movw    $sci, 0x29 * 4
        movw    $0xF000, 0x29 * 4 + 2
        .ifdef DRIVER
        movw    $sci, 0x21 * 4           # a key's is line 1
        movw    $0xF000, 0x21 * 4 + 2
        .set    KEYBOARD, 2
        .else
        .set    KEYBOARD, 0
        .endif
        movb    $0x11, %al
        outb    %al, $0x20
        outb    %al, $0xA0
        movb    $0x20, %al
        outb    %al, $0x21
        movb    $0x28, %al
        outb    %al, $0xA1
        movb    $0x04, %al
        outb    %al, $0x21
        movb    $0x02, %al
        outb    %al, $0xA1
        movb    $0x01, %al
        outb    %al, $0x21
        outb    %al, $0xA1
        movb    $(0xFB & ~KEYBOARD), %al
        outb    %al, $0x21
        movb    $0xFD, %al
        outb    %al, $0xA1
        ret

sci:    pushw   %ax
        movb    $0x20, %al
        outb    %al, $0xA0
        outb    %al, $0x20
        popw    %ax
        iretw

flat_data:                               # the local APIC is above 1 MiB: protected mode for a moment
        lgdtl   %cs:(gdtr)               # leaves a 4 GiB limit in ds, and its base 0
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %ds
        andb    $0xFE, %al
        movl    %eax, %cr0
        movl    $0xFEE00000, %edi
        movl    $0x1FF, %ds:0xF0(%edi)   # software enable
        ret

wake_others:
        movl    $0x000C4500, %ds:0x300(%edi)
        movl    $500000, %ecx
1:      decl    %ecx
        jnz     1b
        movl    $0x000C46F0, %ds:0x300(%edi)
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x008F93000000FFFF       # flat data, 4 GiB; "accessed", as KVM does not let it be written to a ROM
gdtr:   .word   15
        .long   0xF0000 + gdt

        .org    0xFFF0                   # reset vector
        .byte   0xEA                     # ljmp 0xF000:start
        .word   start
        .word   0xF000
        .org    0xFFFF
        .byte   0

# "make demo" shows what pin-hook does, "make check" checks all of it; the rest are their parts.
# What a step needs and this machine lacks is installed with apt; that takes root.

PREFIX ?= /usr
DESTDIR ?=
# Cases of the lab to run, without .sh; empty: all of them.
CASES ?=

export PATH := $(PATH):$(HOME)/.cargo/bin

binary := target/x86_64-unknown-linux-gnu/release/pin-hook
snippets := /var/lib/vz/snippets
sbin := $(DESTDIR)$(PREFIX)/sbin
units := $(DESTDIR)$(PREFIX)/lib/systemd/system
share := $(DESTDIR)$(PREFIX)/share
libexec := $(DESTDIR)$(PREFIX)/libexec/pin-hook
# Where PVE looks for the texts of notifications, whatever the prefix is.
templates := $(DESTDIR)/usr/share/pve-manager/templates/default
pages := $(wildcard docs/man/*.md)
unit_names := $(notdir $(wildcard systemd/*))
configs := /etc/pve/nodes/*/qemu-server/*.conf /etc/pve/nodes/*/lxc/*.conf
# In a package nothing is started; on a running system systemd is told.
is_live := $(if $(DESTDIR),,$(wildcard /run/systemd/system))

.PHONY: build check check-all torture lab demo bench man completions deb deb-tools install uninstall clean
.DEFAULT_GOAL := build

build:
	@tests/lab/toolchain
	@echo "== release build (about 2 minutes the first time)"
	cargo build --release --locked
	@tests/binary $(binary)

check:
	@tests/check $(CASES)

# Every case of the lab on every kernel that it is for.
check-all:
	@tests/check --all $(CASES)

# Random inputs, schedules and kills, for TORTURE_MINUTES.
torture:
	@tests/torture

lab: build deb
	@echo "== lab (about 20 minutes, the kernels side by side; the first time 4 more)"
	tests/lab/run --kernel all $(CASES)

demo:
	@tests/lab/demo/demo

bench: build
	@echo "== bench (about 9 minutes; the first time 9 more)"
	tests/lab/run --script tests/lab/cases/90-bench.sh
	LAB_ICOUNT=0 tests/lab/run 91-overhead
	cargo bench --locked --bench sizes

# Man pages from their sources, where lowdown is installed. What it does by itself to dashes and quotes
# would keep people from copying a command.
man: $(patsubst docs/man/%.md,target/man/%,$(pages))
	@tests/pages
target/man/%: docs/man/%.md
	@mkdir -p target/man
	lowdown -s -Tman --out-no-smarty -o $@ $<

# Completions of shells, by a program of their own: they would only make pin-hook larger. It is built as the
# tests are, which share all that it needs.
completions:
	@cargo run --quiet --locked --profile test --example completions target/completions

deb: build deb-tools man completions
	packaging/deb/build

deb-tools:
	@bash -c '. tests/lab/host.sh && need dpkg-deb:dpkg lowdown:lowdown lintian:lintian'

install: $(if $(shell command -v lowdown),man)
	@test -x $(binary) || { echo "$(binary) is missing: run make build first" >&2; exit 1; }
	install -D -m 755 $(binary) $(sbin)/pin-hook
	install -d $(units) $(share)/pin-hook $(share)/doc/pin-hook/examples
	for unit in $(unit_names); do \
	    sed 's,/usr/sbin/,$(PREFIX)/sbin/,' systemd/$$unit > $(units)/$$unit && chmod 644 $(units)/$$unit || exit 1; \
	done
	install -m 755 hooks/pin-hook $(share)/pin-hook/pin-hook
	install -D -m 755 libexec/notify $(libexec)/notify
	install -d $(templates)
	install -m 644 templates/*.hbs $(templates)/
	install -m 644 README.md docs/*.md $(pages) $(share)/doc/pin-hook/
	install -m 644 docs/examples/*.toml $(share)/doc/pin-hook/examples/
	if [ -d target/completions ]; then \
	    install -D -m 644 target/completions/pin-hook.bash $(share)/bash-completion/completions/pin-hook && \
	    install -D -m 644 target/completions/_pin-hook $(share)/zsh/vendor-completions/_pin-hook && \
	    install -D -m 644 target/completions/pin-hook.fish $(share)/fish/vendor_completions.d/pin-hook.fish; \
	fi
	for page in $(notdir $(wildcard target/man/*)); do \
	    install -D -m 644 target/man/$$page $(share)/man/man$${page##*.}/$$page || exit 1; \
	done
	if [ -d $(DESTDIR)$(snippets) ]; then \
	    install -m 755 $(share)/pin-hook/pin-hook $(DESTDIR)$(snippets)/pin-hook; \
	else \
	    echo "no $(snippets): copy $(PREFIX)/share/pin-hook/pin-hook to a storage with snippets"; \
	fi
	$(if $(is_live),systemctl daemon-reload)
	$(if $(is_live),systemctl enable pin-hook-boot.service)
	$(if $(is_live),systemctl restart pin-hook-boot.service)

# A VM that names a snippet which is not there cannot start: those that do come first.
uninstall:
	$(if $(is_live),@! grep -ls '^hookscript:.*:snippets/pin-hook' $(configs) || \
	    { echo "these vms name the snippet: pin-hook disable them first" >&2; exit 1; })
	$(if $(is_live),$(sbin)/pin-hook release --all)
	$(if $(is_live),-systemctl disable --now pin-hook-boot.service)
	$(if $(is_live),rm -f /etc/pve/pin-hook/nodes/$(shell uname -n | cut -d. -f1))
	rm -f $(sbin)/pin-hook $(addprefix $(units)/,$(unit_names))
	rm -f $(DESTDIR)$(snippets)/pin-hook
	rm -f $(foreach page,$(basename $(notdir $(pages))),$(share)/man/man$(subst .,,$(suffix $(page)))/$(page))
	rm -f $(share)/bash-completion/completions/pin-hook $(share)/zsh/vendor-completions/_pin-hook
	rm -f $(share)/fish/vendor_completions.d/pin-hook.fish
	rm -f $(addprefix $(templates)/,$(notdir $(wildcard templates/*)))
	rm -rf $(share)/pin-hook $(share)/doc/pin-hook $(libexec)
	$(if $(is_live),systemctl daemon-reload)

clean:
	cargo clean

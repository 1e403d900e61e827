#!/bin/sh
# allnoconfig.sh KCONFIG FRAGMENT: the fragment's options that the Kconfig file knows, and whose
# dependency ("config NAME depends on OTHER") the fragment sets.
while IFS== read -r option value; do
	symbol=${option#CONFIG_}
	needed=$(sed -n "s/^config $symbol depends on //p" "$1")
	if ! grep -q "^config $symbol\( depends on .*\)\?\$" "$1"; then
		continue
	elif [ "$needed" ] && ! grep -q "^CONFIG_$needed=y\$" "$2"; then
		continue
	elif [ "$value" = n ]; then
		echo "# $option is not set"
	else
		echo "$option=$value"
	fi
done < "$2"

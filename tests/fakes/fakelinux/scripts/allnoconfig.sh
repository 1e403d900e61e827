#!/bin/sh
# allnoconfig.sh KCONFIG FRAGMENT: the fragment's options that the Kconfig file knows.
while IFS== read -r option value; do
	symbol=${option#CONFIG_}
	if ! grep -q "^config $symbol\$" "$1"; then
		continue
	elif [ "$value" = n ]; then
		echo "# $option is not set"
	else
		echo "$option=$value"
	fi
done < "$2"

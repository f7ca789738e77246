"""The header dictionary of SPDY/3 (its specification, 2.6.10.1), compressed for this file."""

from __future__ import annotations

import base64
import zlib

DICTIONARY = zlib.decompress(
    base64.b85decode(
        "c-m!D+j84B5Y^POlu47cNqzv&Eg6F(=s2D6gL`r7blhYbclr#0D+)0PARwqqzP`Jl<SOlqBpw{><?Mx;OeS;Zqjt"
        "8ROeWJ6$cCQY^%0*ZexS#!0Rs^boyH&)ftgeaJY7B;QLa`p^gzrvdj_m>jkfI(Wu$Ef*;0h3dnzCWl>B7mPo*(#l"
        "MIHqazTHVB##Is)e3UuYz)pI@fe{6wZDEs7hq$)kUa(Z_HaJZ@xUDkdG^48ZR6?-E2j?0zdmqXQztF^W0HTIJ?=c"
        "6r;SV<n?jV7c?MgLQW4D&>5xjEE`#e*-^YGG(#yP)QIUw}gi-fWLzDN~rnWyt(mD$dR^)Mz@DlN0|L<dDA0I-I&r"
        "w-VI=Ri4E^K6INYTs(*>)1q3m@Eem(viiEUm_JUjEA-kLL8CVIE)!0RnX_Kn!TQjOjS*A*>VnDn**(Dru95=Ll_&"
        "e#fJl555huA=AeL`sO$-OHG=tW!TZatTpMJqjbBU?q;+3ui#k+D3!`SY14Mj`Y7X&YArcu?|!EkD6AhVdGy=e-TS"
        "lRRY4v@FsUcQ!e~W8aKUl^+`Ue+?g4x*jb5ij*pF7*g7bnGC4I`0*Cju%IInnF@v7pY;&nyLYr#vwYr)S2;S0gvh"
        "=Plv5Jf49N)$pAwJ6R-@w(<^%|%V2D)xu7`PJBatO66W8;jHH(i}=I(186kE@H(CcI(#Au=jul7Adn6Sn-dtVSmD"
        ">0s1J=<}Z5~CNu(5T)VK)O#@b>a1n{YHZ?llVBBD(VIR^Y*)JiuP-6(Py6L=u4wC@dR>?#wpy+EHvs@T>D=oW*1-"
        "q4jUHO2|9eX=i{2F#OwCLg^d#56XTeF`*G0uNTA1uRW>~4UJ{S6JG)sV64pfmPCM*JD@_Sf4xwHoX_-bdKRvsLU&"
        "raRo3GjH2H`sfd+)yqtJZ}j*goNdwii!=FuPi%_jjnsC8AF-ZZ1?^)tu7wYJjjKlQ5k|gjKWm>gur$bJeWO<U|Ha"
        "E8F7u1SLH91dxTxRcMMiw~T?Y2kC4cn~<Ho1L"
    )
)
